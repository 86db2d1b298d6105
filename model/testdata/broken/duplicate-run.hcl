service "web" {
  type = "process"
  run { command = ["web"] }
  run { command = ["web", "-v"] }
}
