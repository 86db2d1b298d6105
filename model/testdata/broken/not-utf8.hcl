service "web" {
  type = "process"
  run { command = ["ÿþ"] }
}
