service "web" {
  type = "process"
  run {
    command        = ["x"]
    grace          = 10
    start_deadline = "5 minutes"
  }
  port "http" {}
  health {
    tcp      = true
    interval = "-5s"
    timeout  = "10h"
  }
}
