service "web" {
  type = "process"
  port "http" { listen = "agent" }
  run { command = ["web"] }
}
