service "web" {
  type            = "process"
  connects_to     = ["zipcodes"]
  activates_after = ["rooms"]
  run { command = ["bin/web"] }
}

service "zipcode" {
  type = "process"
  run { command = ["bin/zipcode"] }
}
