service "a" {
  type = "process"
  run {
    command = ["a"]
  }
  resources {
    memory = "1GiB"
  }
}

distribution {
  strategy = "lowest-bidder"
  resource = "memry"
}
