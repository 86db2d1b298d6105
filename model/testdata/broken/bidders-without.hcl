service "a" {
  type = "process"
  run {
    command = ["a"]
  }
}

distribution {
  strategy = "lowest-bidder"
}
