service "a" {
  type = "process"
  run {
    command = ["a", null]
    env = {
      "A=B" = "c"
      LIST  = ["a", "b"]
      MAP   = { a = 1 }
    }
    user = "a b"
  }
}
