service "a" {
  type     = "process"
  settings = { x = 1 }
  run { command = ["a"] }
}
