service "web" {
  type = "process"
  type = "process"
  run { command = ["web"] }
}
