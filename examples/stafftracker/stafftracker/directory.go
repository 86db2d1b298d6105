package main

import (
	"context"
	"errors"
	"net/http"
	"strconv"
)

// directory is what the services behind this one know about people.
type directory struct {
	staff, rooms, zipcodes *upstream
}

// person is a member of staff.
type person struct {
	ID        int64  `json:"id"`
	Name      string `json:"name"`
	LastName  string `json:"lastName"`
	Room      string `json:"room"`
	IPAddress string `json:"ipAddress"`
}

// place is where a person works, as far as it is known.
type place struct {
	Zipcode, Street, City string
	RoomUnknown           bool // no such room
	ZipcodeUnknown        bool // the room's zip code is in no list
}

// source is a service that a page was made from, and the node it ran on.
type source struct{ Service, Node string }

// newDirectory reads from the environment where the three services are.
func newDirectory() (*directory, error) {
	staff, err1 := newUpstream("staffservice")
	rooms, err2 := newUpstream("roomservice")
	zipcodes, err3 := newUpstream("zipcodeservice")
	return &directory{staff, rooms, zipcodes}, errors.Join(err1, err2, err3)
}

// everybody lists the people by id.
func (d *directory) everybody(ctx context.Context) ([]person, []source, error) {
	var all []person
	node, err := d.staff.call(ctx, http.MethodGet, nil, &all, "staff")
	return all, []source{{d.staff.name, node}}, err
}

// person is one person, or errNotFound.
func (d *directory) person(ctx context.Context, id int64) (person, source, error) {
	var p person
	node, err := d.staff.call(ctx, http.MethodGet, nil, &p, "staff", strconv.FormatInt(id, 10))
	return p, source{d.staff.name, node}, err
}

// locate joins a room with its zip code and that with its street and city.
// What is in no list is no error: rooms are given names before lists know.
func (d *directory) locate(ctx context.Context, room string) (place, []source, error) {
	var at place
	var asked []source
	var in struct{ Zipcode string }
	node, err := d.rooms.call(ctx, http.MethodGet, nil, &in, "rooms", room)
	asked = append(asked, source{d.rooms.name, node})
	if errors.Is(err, errNotFound) {
		return place{RoomUnknown: true}, asked, nil
	}
	if err != nil {
		return at, nil, err
	}
	at.Zipcode = in.Zipcode
	var found struct{ Street, City string }
	node, err = d.zipcodes.call(ctx, http.MethodGet, nil, &found, "zipcodes", at.Zipcode)
	asked = append(asked, source{d.zipcodes.name, node})
	if errors.Is(err, errNotFound) {
		at.ZipcodeUnknown, err = true, nil
	}
	at.Street, at.City = found.Street, found.City
	return at, asked, err
}

// roomNames are for choosing from; without them a form still works.
func (d *directory) roomNames(ctx context.Context) []string {
	var all []struct{ Room string }
	if _, err := d.rooms.call(ctx, http.MethodGet, nil, &all, "rooms"); err != nil {
		return nil
	}
	names := make([]string, len(all))
	for i, r := range all {
		names[i] = r.Room
	}
	return names
}

// save adds p if it has no id, else replaces the person who has it.
func (d *directory) save(ctx context.Context, p person) (person, error) {
	method, path := http.MethodPost, []string{"staff"}
	if p.ID != 0 {
		method, path = http.MethodPut, append(path, strconv.FormatInt(p.ID, 10))
	}
	var stored person
	_, err := d.staff.call(ctx, method, p, &stored, path...)
	return stored, err
}

func (d *directory) remove(ctx context.Context, id int64) error {
	_, err := d.staff.call(ctx, http.MethodDelete, nil, nil, "staff", strconv.FormatInt(id, 10))
	return err
}
