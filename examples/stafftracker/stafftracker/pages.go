package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

const maxForm = 16 << 10 // bytes

// list is the page of everybody.
func (s *site) list(ctx context.Context, _ *http.Request) (outcome, error) {
	people, asked, err := s.directory.everybody(ctx)
	return outcome{template: "list", view: view{Title: "Staff", People: people, Sources: asked}}, err
}

// display is the page of one person: the join over all three services.
func (s *site) display(ctx context.Context, r *http.Request) (outcome, error) {
	p, asked, err := s.wanted(ctx, r.PathValue("id"))
	if err != nil {
		return outcome{}, err
	}
	at, more, err := s.directory.locate(ctx, p.Room)
	return outcome{template: "display", view: view{
		Title: p.Name + " " + p.LastName, Person: p, Place: at, Sources: append([]source{asked}, more...),
	}}, err
}

// edit is the form, empty or with a person's data.
func (s *site) edit(ctx context.Context, r *http.Request) (outcome, error) {
	if r.PathValue("id") == "" {
		return s.form(ctx, person{}, ""), nil
	}
	p, _, err := s.wanted(ctx, r.PathValue("id"))
	if err != nil {
		return outcome{}, err
	}
	return s.form(ctx, p, ""), nil
}

// form shows p to be changed, with the reason if it was not accepted so.
func (s *site) form(ctx context.Context, p person, problem string) outcome {
	out := outcome{template: "edit", view: view{Title: "New member of staff", Person: p, Problem: problem, Rooms: s.directory.roomNames(ctx)}}
	if p.ID != 0 {
		out.view.Title = "Change a member of staff"
	}
	if problem != "" {
		out.status = http.StatusUnprocessableEntity
	}
	return out
}

// confirm asks before somebody is removed: following a link changes nothing.
func (s *site) confirm(ctx context.Context, r *http.Request) (outcome, error) {
	p, _, err := s.wanted(ctx, r.URL.Query().Get("id"))
	return outcome{template: "confirm", view: view{Title: "Remove a member of staff", Person: p}}, err
}

// modify does what a form asked for and goes on to a page that shows it.
func (s *site) modify(ctx context.Context, r *http.Request) (outcome, error) {
	r.Body = http.MaxBytesReader(nil, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return outcome{}, refusal{"the form cannot be read: " + err.Error()}
	}
	p, err := formPerson(r)
	if err != nil {
		return outcome{}, err
	}
	switch action := r.PostForm.Get("action"); {
	case action == "remove" && p.ID != 0:
		return outcome{redirect: "/"}, s.directory.remove(ctx, p.ID)
	case action == "save":
		return s.save(ctx, p)
	}
	return outcome{}, refusal{"the form says neither save nor remove"}
}

func (s *site) save(ctx context.Context, p person) (outcome, error) {
	stored, err := s.directory.save(ctx, p)
	var bad refusal
	if errors.As(err, &bad) {
		return s.form(ctx, p, bad.reason), nil
	}
	return outcome{redirect: fmt.Sprintf("/displaystaff/%d", stored.ID)}, err
}

func (s *site) lost(context.Context, *http.Request) (outcome, error) {
	return outcome{}, errNoSuchPage
}

// formPerson is the person that a form describes; ID is 0 for a new one.
func formPerson(r *http.Request) (person, error) {
	field := func(name string) string { return strings.TrimSpace(r.PostForm.Get(name)) }
	p := person{Name: field("name"), LastName: field("lastName"), Room: field("room"), IPAddress: field("ipAddress")}
	if field("id") == "" {
		return p, nil
	}
	var err error
	p.ID, err = parseID(field("id"))
	return p, err
}

// wanted is the person with that id.
func (s *site) wanted(ctx context.Context, id string) (person, source, error) {
	n, err := parseID(id)
	if err != nil {
		return person{}, source{}, err
	}
	return s.directory.person(ctx, n)
}

// parseID reads an id; what is no id belongs to nobody.
func parseID(id string) (int64, error) {
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil || n < 1 {
		return 0, errNotFound
	}
	return n, nil
}
