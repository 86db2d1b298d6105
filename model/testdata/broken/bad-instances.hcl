service "a" {
  type      = "process"
  instances = 0
  run { command = ["x"] }
}
service "b" {
  type      = "process"
  instances = "3"
  run { command = ["x"] }
}
service "c" {
  type      = "process"
  instances = 1.5
  run { command = ["x"] }
}
