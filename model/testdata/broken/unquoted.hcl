service "web" {
  type = process
  run { command = [web] }
}
