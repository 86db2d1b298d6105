service "db" {
  type      = "process"
  instances = 3
  state {
    managed = true
  }
  run { command = ["x"] }
}
service "files" {
  type      = "process"
  instances = "all"
  state {}
  run { command = ["x"] }
}
