service "web" {
  type = "process"
  port "http" {}
  port "my-port" {}
  run {
    command = ["web", self.hots, self.port.htp, "${self.port["myport"]}:1", self.port.http.number]
  }
}
