service "web" {
  type      = "process"
  package   = "./${node.zone}"
  instances = self.port.http
  run { command = ["web"] }
}
