service "web" {
  type = "process"
  run {
    command = "bin/web --port 8080"
    env     = ["PORT=1"]
    dir     = ["/"]
  }
}
