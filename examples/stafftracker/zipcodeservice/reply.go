package main

import (
	"encoding/json"
	"net/http"
)

// problem is the body of every answer that is not a success. Service is set
// when another service is to blame and names the one that failed, however
// many services lie between it and the reader.
type problem struct {
	Error   string `json:"error"`
	Service string `json:"service,omitempty"`
}

// reply writes v as the JSON body of an answer.
func reply(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(body, '\n'))
}
