service "a" {
  type = "process"
  port "http" {}
  health {
    http = "/healthz"
    tcp  = true
  }
  run { command = ["x"] }
}
service "b" {
  type = "process"
  health { interval = "5s" }
  run { command = ["x"] }
}
service "c" {
  type = "process"
  port "http" {}
  health { http = "http://localhost/healthz" }
  run { command = ["x"] }
}
