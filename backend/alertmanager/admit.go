package alertmanager

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/palliumhq/pallium/backend/regexsize"
)

const (
	// maxInstructions is the maximum size of the compiled regular expressions of one silence, or of the filters of one
	// request. Alertmanager itself has no limit, and keeps the regular expressions of silences in memory.
	maxInstructions = 500
	// maxListed bounds the size of a list of alerts, in pairs of an alert and a receiver. Each alert is listed with the
	// receivers of all routes that match it, in each of its groups.
	maxListed = 5_000_000
)

// admit returns the response that rejects a request because it is too costly for Alertmanager's API, or nil.
func (in *instance) admit(method, path string, body []byte) *Response {
	base, query, _ := strings.Cut(path, "?")
	var err error
	switch {
	case method == http.MethodPost && base == "/api/v2/silences":
		err = checkSilence(body)
	case method == http.MethodGet:
		err = errors.Join(checkFilters(query), in.checkList(base))
	}
	if err != nil {
		return text(http.StatusBadRequest, err.Error())
	}
	return nil
}

// checkSilence checks the regular expressions of a silence.
func checkSilence(body []byte) error {
	var s struct {
		Matchers []struct {
			Value   string
			IsRegex bool
		}
	}
	if err := json.Unmarshal(body, &s); err != nil {
		return fmt.Errorf("parse the silence: %w", err)
	}
	left := maxInstructions
	for _, m := range s.Matchers {
		if m.IsRegex {
			n, err := regexsize.Pattern(m.Value, left)
			if err != nil {
				return fmt.Errorf("the regular expressions of the silence are too large: %w", err)
			}
			left -= n
		}
	}
	return nil
}

// checkFilters checks the regular expressions in the parameters of a request.
func checkFilters(query string) error {
	form, err := url.ParseQuery(query)
	if err != nil {
		return fmt.Errorf("parse the parameters: %w", err)
	}
	left := maxInstructions
	for _, name := range []string{"filter", "receiver", "receiver_matchers"} {
		for _, value := range form[name] {
			n, err := regexsize.Pattern(value, left)
			if err != nil {
				return fmt.Errorf("the regular expressions in the parameter %s are too large: %w", name, err)
			}
			left -= n
		}
	}
	return nil
}

// checkList estimates the size of a list of alerts, and returns an error if it may be too large.
func (in *instance) checkList(base string) error {
	if !strings.HasPrefix(base, "/api/v2/alerts") {
		return nil
	}
	matching := in.current.Load().matching
	if n := in.limits.count(); n*matching*matching > maxListed {
		return fmt.Errorf("listing %d alerts is too expensive, because up to %d routes can match each: "+
			"use fewer routes with `continue: true`", n, matching)
	}
	return nil
}
