package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	callTime  = 5 * time.Second // for one call to another service
	maxAnswer = 4 << 20         // bytes
)

var errNotFound = errors.New("not found")

// refusal is an upstream's complaint about what it was asked (400, 409).
type refusal struct{ reason string }

func (r refusal) Error() string { return r.reason }

// failure says that another service is to blame, and which: service is the
// one that failed, asked the one that was called. They differ when the
// called one blames a service behind it.
type failure struct{ service, asked, reason string }

func (f failure) Error() string {
	if f.service == f.asked {
		return fmt.Sprintf("%s failed: %s", f.service, f.reason)
	}
	return fmt.Sprintf("%s failed, says %s: %s", f.service, f.asked, f.reason)
}

// upstream is another service that is asked over HTTP.
type upstream struct {
	name   string
	base   string // URL without a slash at its end
	client *http.Client
}

// newUpstream reads the service's address from the environment: ROOMS_URL
// for "rooms".
func newUpstream(name string) (*upstream, error) {
	variable := strings.ToUpper(name) + "_URL"
	u, err := url.Parse(os.Getenv(variable))
	if err != nil || u.Scheme != "http" || u.Host == "" {
		return nil, fmt.Errorf("%s is %q, not an address like http://127.0.0.1:8000", variable, os.Getenv(variable))
	}
	return &upstream{name: name, base: strings.TrimSuffix(u.String(), "/"), client: &http.Client{Timeout: callTime}}, nil
}

// call sends in as JSON (nil: no body), reads the answer into out (nil: not
// wanted), and returns the node that answered. Each part of the path is
// escaped. The error is errNotFound, a refusal or a failure.
func (u *upstream) call(ctx context.Context, method string, in, out any, path ...string) (node string, err error) {
	req, err := u.request(ctx, method, in, path)
	if err != nil {
		return "", err
	}
	resp, err := u.client.Do(req)
	if err != nil {
		return "", u.failure(err.Error())
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return "", u.failure(err.Error())
	}
	if resp.StatusCode >= 300 {
		return "", u.explain(resp, body)
	}
	if out != nil {
		if err := json.Unmarshal(body, out); err != nil {
			return "", u.failure("its answer is no JSON that fits: " + err.Error())
		}
	}
	return resp.Header.Get("X-Node"), nil
}

func (u *upstream) request(ctx context.Context, method string, in any, path []string) (*http.Request, error) {
	target := u.base
	for _, p := range path {
		target += "/" + url.PathEscape(p)
	}
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	return http.NewRequestWithContext(ctx, method, target, body)
}

// explain turns an answer that is no success into an error.
func (u *upstream) explain(resp *http.Response, body []byte) error {
	var said struct{ Error, Service string }
	if json.Unmarshal(body, &said) != nil || said.Error == "" {
		said.Error = resp.Status
	}
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return errNotFound
	case resp.StatusCode < 400:
		return u.failure("it points elsewhere: " + resp.Status)
	case resp.StatusCode < 500:
		return refusal{said.Error}
	case said.Service != "":
		return failure{service: said.Service, asked: u.name, reason: said.Error}
	}
	return u.failure(said.Error)
}

func (u *upstream) failure(reason string) error {
	return failure{service: u.name, asked: u.name, reason: reason}
}

// ready says whether all these services answer now. Health does not ask
// this: a service whose upstream restarts is not ill.
func ready(ctx context.Context, services ...*upstream) error {
	for _, u := range services {
		if _, err := u.call(ctx, http.MethodGet, nil, nil, "healthz"); err != nil {
			return fmt.Errorf("%s is not ready: %w", u.name, err)
		}
	}
	return nil
}
