service "a" {
  type      = "process"
  instances = 2
  exclusive = true
  run { command = ["x"] }
}
service "b" {
  type      = "process"
  exclusive = "yes"
  run { command = ["x"] }
}
service "c" {
  type = "process"
  run { command = ["x"] }
  state {
    take_over = "1m"
  }
}
service "d" {
  type = "process"
  run { command = ["x"] }
  state {
    copies    = 2
    take_over = "soon"
  }
}
