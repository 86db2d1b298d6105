service "web" {
  type = "process"
  run {
    command = ["web"]
    env {
      PORT = 1
    }
  }
}
