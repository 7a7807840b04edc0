package command

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	// RequestTimeout limits a request and its response.
	RequestTimeout = 60 * time.Second
	dialTimeout    = 30 * time.Second
	maxSecretFile  = 4 << 10 // bytes
)

// Response is a response of a server with its complete body.
type Response struct {
	Code   int
	Status string // the code with its text
	Header http.Header
	Body   []byte
}

// Send sends a request that contains a credential, and returns the response, or nil if there was none. A body of more
// than `most` bytes is an error. The credential is never sent to another server, or unencrypted to a proxy. `server`
// names the server in errors of reading the response; errors of sending are returned unchanged.
func Send(req *http.Request, most int, server string) (*Response, error) {
	client := &http.Client{
		Transport: &http.Transport{Proxy: proxyOf, DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // never send the credential to another server
		},
	}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	r := &Response{Code: resp.StatusCode, Status: resp.Status, Header: resp.Header}
	r.Body, err = io.ReadAll(io.LimitReader(resp.Body, int64(most)+1))
	if err != nil {
		return r, fmt.Errorf("read the response of the %s: %w", server, err)
	}
	if len(r.Body) > most {
		return r, fmt.Errorf("the response of the %s is larger than %d bytes", server, most)
	}
	return r, nil
}

// proxyOf uses the proxy of the environment for https only: a proxy would read the
// credential in a request to an http URL.
func proxyOf(req *http.Request) (*url.URL, error) {
	if req.URL.Scheme == "http" {
		return nil, nil
	}
	return http.ProxyFromEnvironment(req)
}

// ReadSecret returns the content of a file with a credential, without white space around it.
func ReadSecret(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(f, maxSecretFile))
	return strings.TrimSpace(string(data)), err
}

// Sendable reports whether a credential can be sent in a header: it is one line of printable ASCII
// characters without spaces.
func Sendable(secret string) bool {
	return !strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' })
}
