service "web" {
  run { command = ["web"] }
}
