service "web" {
  type    = "process"
  package = "./web"
  build { command = [] }
  run { command = [] }
}
service "db" {
  type = "process"
  run { command = ["", "-v"] }
}
