package tenant

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// TestParseID checks the alphabet of Mimir, which makes IDs safe in paths and keys.
func TestParseID(t *testing.T) {
	for _, tt := range []struct {
		in   string
		says string // "": valid
	}{
		{"acme", ""}, {"A-z0_9.!*'()", ""}, {"...", ""}, {".x", ""}, {strings.Repeat("a", MaxIDLength), ""},
		{"", "empty"}, {".", "path element"}, {"..", "path element"},
		{strings.Repeat("a", MaxIDLength+1), "has 151 bytes; the limit is 150"},
		{"a/b", `the character '/'`}, {"a|b", `the character '|'`}, {"a b", `the character ' '`}, {"a\x00b", "the character"}, {"a\nb", "the character"},
		{"ä", `the character 'ä'`}, {"a\xff", "the character"}, {"a%2Fb", `the character '%'`}, {"a\\b", "the character"}, {"a,b", "the character"}, {"a:b", "the character"},
	} {
		got, err := ParseID(tt.in)
		if ok := err == nil; ok != (tt.says == "") || ok && string(got) != tt.in || !ok && (!strings.Contains(err.Error(), tt.says) || got != "") {
			t.Errorf("%q: %q, %v", tt.in, got, err)
		}
	}
	for c := range 256 { // every byte, compared with the alphabet in Mimir's documentation
		_, err := ParseID("x" + string([]byte{byte(c)}))
		allowed := strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!-_.*'()", rune(c)) && c < 128
		if (err == nil) != allowed {
			t.Errorf("byte %#x: %v", c, err)
		}
	}
}

// TestAccess checks that an access needs both a valid tenant and a label policy.
func TestAccess(t *testing.T) {
	for _, tt := range []struct {
		name   string
		access Access
		ok     bool
	}{
		{"tenant and policy", Access{Tenant: "acme", Policy: Unrestricted()}, true},
		{"nothing", Access{}, false},
		{"no tenant", Access{Policy: Unrestricted()}, false},
		{"no policy", Access{Tenant: "acme"}, false},
		{"an invalid ID", Access{Tenant: "a/b", Policy: Unrestricted()}, false},
	} {
		got, err := FromContext(NewContext(t.Context(), tt.access))
		if (err == nil) != tt.ok || tt.ok && got != tt.access || !tt.ok && got != (Access{}) {
			t.Errorf("%s: %+v, %v", tt.name, got, err)
		}
	}
	if got, err := FromContext(context.Background()); err == nil {
		t.Errorf("without an access: %+v", got)
	}
}

// TestHeaders checks that one process reads the headers that another sets, and that
// repeated headers are rejected.
func TestHeaders(t *testing.T) {
	h := http.Header{HeaderPolicy: {"a client's"}, HeaderOrgID: {"a client's", "twice"}}
	want := Access{Tenant: "acme", Policy: Unrestricted()}
	want.SetHeaders(h)
	if got, err := AccessFromHeaders(h); err != nil || got != want {
		t.Errorf("AccessFromHeaders after SetHeaders = %+v, %v", got, err)
	}
	Access{Tenant: "acme"}.SetHeaders(h)
	if got, err := AccessFromHeaders(h); !errors.Is(err, errNoPolicy) {
		t.Errorf("SetHeaders did not remove the policy of an earlier request: %+v, %v", got, err)
	}
	for name, h := range map[string]http.Header{
		"nothing":          {},
		"two tenants":      {HeaderOrgID: {"a", "b"}, HeaderPolicy: {policyUnrestricted}},
		"one tenant twice": {HeaderOrgID: {"a", "a"}, HeaderPolicy: {policyUnrestricted}},
		"two policies":     {HeaderOrgID: {"a"}, HeaderPolicy: {policyUnrestricted, policyUnrestricted}},
		"no policy":        {HeaderOrgID: {"a"}},
		"empty policy":     {HeaderOrgID: {"a"}, HeaderPolicy: {""}},
		"unknown policy":   {HeaderOrgID: {"a"}, HeaderPolicy: {"namespace=x"}},
		"no tenant":        {HeaderPolicy: {policyUnrestricted}},
		"empty tenant":     {HeaderOrgID: {""}, HeaderPolicy: {policyUnrestricted}},
		"joined tenants":   {HeaderOrgID: {"a|b"}, HeaderPolicy: {policyUnrestricted}},
	} {
		if got, err := AccessFromHeaders(h); err == nil || got != (Access{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestIdentity(t *testing.T) {
	id := Identity{Tenants: []ID{"a", "b"}, Scopes: []Scope{MetricsRead}}
	if !id.MayActFor("a") || id.MayActFor("c") || id.MayActFor("") || !id.Has(MetricsRead) || id.Has(MetricsWrite) || id.Has("") {
		t.Errorf("wrong tenants or scopes of %+v", id)
	}
	if (Identity{}).MayActFor("") || (Identity{}).Has("") {
		t.Error("the zero identity has rights")
	}
	for _, s := range Scopes() {
		if !s.Valid() {
			t.Errorf("%s is not valid", s)
		}
	}
	if Scope("").Valid() || Scope("metrics").Valid() || slices.Contains(Scopes(), "") {
		t.Error("an unknown scope is valid")
	}
}
