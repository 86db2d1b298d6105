service "web" {
  type = "process"
  run { command = ["x", 1e999999999] }
}
