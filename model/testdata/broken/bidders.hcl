service "a" {
  type = "process"
  run {
    command = ["a"]
  }
  resources {
    memory = "1GiB"
    cores  = 1
  }
}

distribution {
  strategy = "highest-bidder"
}
