service "web" {
  type = "process"
  run { command = ["${self.host"] }
}
