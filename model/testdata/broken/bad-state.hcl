service "db" {
  type = "process"
  state {
    managed = "yes"
    copies  = 0
    every   = "15"
    keep    = 100000
  }
  run { command = ["x"] }
}
