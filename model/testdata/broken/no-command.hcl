service "web" {
  type    = "process"
  package = "./web"
  build { timeout = "1m" }
  run { user = "nobody" }
}
