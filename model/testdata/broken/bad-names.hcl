service "Staff_DB" {
  type = "process"
  port "a.b" {}
  run { command = ["x"] }
}
service "-" {
  type = "process"
  run { command = ["x"] }
}
service "this-name-is-longer-than-a-label-of-the-domain-name-system-may-be" {
  type = "process"
  run { command = ["x"] }
}
node "büro" {}
