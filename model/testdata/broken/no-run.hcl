service "web" {
  type    = "process"
  package = "./web"
}
