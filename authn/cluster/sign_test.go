package cluster

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestParseSecrets(t *testing.T) {
	for _, c := range []struct {
		text string
		n    int
		err  string
	}{
		{one, 1, ""},
		{"  " + one + "\n" + two + "\n", 2, ""},
		{"", 0, "no secret"},
		{" \n", 0, "no secret"},
		{one + " short", 0, "secret 2 of the list has 5 bytes, at least 32"},
	} {
		s, err := ParseSecrets(c.text)
		switch {
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%q: %v", c.text, err)
		case c.err == "" && (err != nil || len(s.list) != c.n):
			t.Errorf("%q: %v, %v", c.text, s, err)
		}
		if err != nil && strings.Contains(err.Error(), one) {
			t.Errorf("the error contains a secret: %v", err)
		}
	}
}

// TestSignatures checks that a signature is valid for its purpose, its parts and, without a
// secret, its host, for all members of the cluster, and for nothing else.
func TestSignatures(t *testing.T) {
	ca, ca2 := newAuthority(t), newAuthority(t)
	none := TLSFiles{}
	secret := member(t, one, none, false)
	for _, signer := range []struct {
		name   string
		m      *Member
		reader *Member
	}{
		{"secret", secret, member(t, two+" "+one, none, false)},
		{"secret and certificate", member(t, one, ca.files("a.example", "rsa"), false), secret},
		{"ecdsa", member(t, "", ca.files("a.example", "ecdsa"), false), member(t, "", ca.files("b.example", "ecdsa"), false)},
		{"rsa", member(t, "", ca.files("a.example", "rsa"), false), member(t, "", ca.files("b.example", "ecdsa"), false)},
		{"ed25519", member(t, "", ca.files("a.example", "ed25519"), false), member(t, "", ca.files("b.example", "ecdsa"), false)},
	} {
		t.Run(signer.name, func(t *testing.T) {
			sig, err := signer.m.Sign("greeting", "hel", "lo")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := signer.reader.Verify(sig, "a.example", "greeting", "hel", "lo"); err != nil {
				t.Error(err)
			}
			if _, err := signer.reader.Verify(sig, "", "greeting", "hel", "lo"); err != nil {
				t.Error(err)
			}
			for name, parts := range map[string][]string{"parts split differently": {"hell", "o"}, "one more part": {"hel", "lo", ""}, "other": {"hel", "lO"}} {
				if _, err := signer.reader.Verify(sig, "a.example", "greeting", parts...); !errors.Is(err, ErrNotSigned) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if _, err := signer.reader.Verify(sig, "a.example", "farewell", "hel", "lo"); !errors.Is(err, ErrNotSigned) {
				t.Errorf("another purpose: %v", err)
			}
			if signer.m.secrets == nil {
				if _, err := signer.reader.Verify(sig, "b.example", "greeting", "hel", "lo"); !errors.Is(err, ErrNotSigned) {
					t.Errorf("another host: %v", err)
				}
			}
			for name, reader := range map[string]*Member{
				"another secret": member(t, other, none, false), "another authority": member(t, "", ca2.files("b.example", "ecdsa"), false),
			} {
				if _, err := reader.Verify(sig, "a.example", "greeting", "hel", "lo"); !errors.Is(err, ErrNotSigned) {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
}

// TestCertificateOfMember checks that signatures of an expired certificate are rejected,
// and that a member with a secret rejects signatures of certificates.
func TestCertificateOfMember(t *testing.T) {
	ca := newAuthority(t)
	files := ca.files("a.example", "ecdsa")
	m := member(t, "", files, false)
	sig, err := m.Sign("x", "y")
	if err != nil {
		t.Fatal(err)
	}
	m.now = func() time.Time { return time.Now().Add(48 * time.Hour) }
	if _, err := m.Verify(sig, "a.example", "x", "y"); !errors.Is(err, ErrNotSigned) || !errors.Is(err, ErrExpired) {
		t.Errorf("two days later: %v", err)
	}
	for what, parts := range map[string][2]string{"another host": {"b.example", "y"}, "other parts": {"a.example", "z"}} {
		if _, err := m.Verify(sig, parts[0], "x", parts[1]); !errors.Is(err, ErrNotSigned) || errors.Is(err, ErrExpired) {
			t.Errorf("two days later, %s: %v", what, err)
		}
	}
	if _, err := member(t, one, files, false).Verify(sig, "a.example", "x", "y"); !errors.Is(err, ErrNotSigned) {
		t.Errorf("with a secret: %v", err)
	}
}

// TestAged checks that Verify reports signatures of a secret that is not the first one.
func TestAged(t *testing.T) {
	sig, err := member(t, one, TLSFiles{}, false).Sign("x", "y")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		list string
		aged bool
		ok   bool
	}{{one, false, true}, {one + " " + two, false, true}, {two + " " + one, true, true}, {two, false, false}} {
		aged, err := member(t, c.list, TLSFiles{}, false).Verify(sig, "", "x", "y")
		if aged != c.aged || (err == nil) != c.ok {
			t.Errorf("%v: %v, %v", c, aged, err)
		}
	}
}

func TestNew(t *testing.T) {
	ca := newAuthority(t)
	files := ca.files("a.example", "ecdsa")
	secrets, err := ParseSecrets(one)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		o   Options
		err string
	}{
		{Options{}, "PALLIUM_CLUSTER_SECRET"},
		{Options{PlainText: true}, "PALLIUM_CLUSTER_SECRET"},
		{Options{TLS: files, Secrets: secrets, PlainText: true}, "remove one"},
		{Options{TLS: TLSFiles{CertFile: "x"}}, "cert_file, key_file and ca_file"},
		{Options{TLS: TLSFiles{CertFile: files.CertFile, KeyFile: files.KeyFile, CAFile: files.KeyFile}}, "contains no PEM certificate"},
		{Options{TLS: TLSFiles{CertFile: files.CertFile, KeyFile: "missing", CAFile: files.CAFile}}, "missing"},
	} {
		if _, err := New(c.o); err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("New with the options %+v: %v", c.o, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	secrets, err := ParseSecrets(one)
	if err != nil {
		f.Fatal(err)
	}
	m, err := New(Options{Secrets: secrets})
	if err != nil {
		f.Fatal(err)
	}
	certificates := &Member{now: time.Now}
	sig, _ := m.Sign("x", "y")
	f.Add(sig)
	f.Add("c" + strings.Repeat(".AAAA", 3))
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := m.Verify(s, "h", "x", "y"); err == nil && s != sig {
			t.Errorf("Verify(%q) returned no error", s)
		}
		if _, err := certificates.Verify(s, "h", "x", "y"); err == nil {
			t.Errorf("Verify(%q) of a member with only certificates returned no error", s)
		}
	})
}
