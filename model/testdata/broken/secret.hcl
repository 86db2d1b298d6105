service "web" {
  type = "process"
  run {
    command = ["web"]
    env     = { PASSWORD = secret.database }
  }
}
