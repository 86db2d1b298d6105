service "a" {
  type = "process"
  port "http" {}
  port "admin" {}
  health {
    tcp  = true
    port = "htp"
  }
  run { command = ["x"] }
}
service "b" {
  type = "process"
  health { tcp = true }
  run { command = ["x"] }
}
service "c" {
  type = "process"
  port "http" {}
  port "admin" {}
  health { tcp = true }
  run { command = ["x"] }
}
