# all services are gone
