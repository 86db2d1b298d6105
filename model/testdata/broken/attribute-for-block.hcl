service "web" {
  type = "process"
  port = { http = 8080 }
  run { command = ["web"] }
}
