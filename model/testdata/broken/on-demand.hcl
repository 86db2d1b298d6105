service "web" {
  type = "process"
  run { command = ["web"] }
  on_demand {
    idle = "5m"
  }
}
