package integrations

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/prometheus/alertmanager/notify"

	"github.com/palliumhq/pallium/backend/egress"
)

// maxErrorText is the maximum length of the text of an error, which may contain the response of a receiver.
const maxErrorText = 1024

// limitError is the error of a limit that the execution of templates exceeded.
type limitError struct{ error }

// Unwrap returns the limit.
func (e limitError) Unwrap() error { return e.error }

// panicError is a panic of a notifier.
type panicError struct{ value any }

// Error implements error.
func (e panicError) Error() string { return fmt.Sprintf("panic in the notifier: %v", e.value) }

// reasonOf returns the value of the label "reason" for a failed attempt.
func reasonOf(err error) string {
	var limit limitError
	var panicked panicError
	switch {
	case errors.As(err, &limit):
		return "template_limit"
	case errors.As(err, &panicked):
		return "panic"
	case errors.Is(err, egress.ErrDenied), errors.Is(err, errOtherHost):
		return "egress_denied"
	case errors.Is(err, errResponse), errors.Is(err, errConnections):
		return "response_limit"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, errTimeout):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "canceled"
	}
	var reason *notify.ErrorWithReason
	if !errors.As(err, &reason) {
		return "other"
	}
	switch reason.Reason {
	case notify.ClientErrorReason:
		return "client_error"
	case notify.ServerErrorReason:
		return "server_error"
	case notify.AuthErrorReason:
		return "auth_error"
	case notify.RateLimitedReason:
		return "rate_limited"
	}
	return "other"
}

// secrets contains the values of a configuration that must not appear in errors, because errors are logged and shown to
// users of the tenant.
type secrets map[string]struct{}

// minSecret is the minimum length of a secret that is hidden: a shorter one could be a part of any word.
const minSecret = 4

func (s secrets) add(value string) {
	if value = strings.TrimSpace(value); len(value) >= minSecret {
		s[value] = struct{}{}
		s[url.QueryEscape(value)] = struct{}{}
		s[url.PathEscape(value)] = struct{}{}
		s[(&url.URL{Path: value}).EscapedPath()] = struct{}{}
		quoted := strconv.Quote(value)
		s[quoted[1:len(quoted)-1]] = struct{}{} // as it appears in an error that quotes it
	}
}

// hide returns the error with a text without secrets. A longer text is cut to maxErrorText bytes, with a remark.
func (s secrets) hide(err error) error {
	text := strings.ToValidUTF8(err.Error(), "\uFFFD")
	longest := func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) }
	for _, value := range slices.SortedFunc(maps.Keys(s), longest) { // longest first, because one secret may be a part of another
		text = strings.ReplaceAll(text, value, "<secret>")
	}
	if len(text) > maxErrorText {
		n := maxErrorText
		for !utf8.RuneStart(text[n]) {
			n--
		}
		text = fmt.Sprintf("%s... (%d bytes)", text[:n], len(text))
	}
	return &shown{text: text, err: err}
}

// shown is an error with a replaced text. It wraps the original error, so that errors.Is and errors.As work.
type shown struct {
	text string
	err  error
}

// Error returns the text that may be shown.
func (e *shown) Error() string { return e.text }

// Unwrap returns the original error.
func (e *shown) Unwrap() error { return e.err }
