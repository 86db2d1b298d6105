service "web" {
  type = "process"
  port "a" { assign = 70000 }
  port "b" { assign = 0 }
  port "c" { assign = "8080" }
  port "d" { assign = "privat" }
  port "e" { assign = 80.5 }
  port "f" { asign = 80 }
  run { command = ["x"] }
}
