service "web" {
  type = "process"
  port "http" { assign = 8080 }
  port "http" { assign = "private" }
  run { command = ["web"] }
}
