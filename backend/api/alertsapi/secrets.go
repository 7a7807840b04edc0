package alertsapi

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/palliumhq/pallium/backend/api/exchange"
)

// secrets lists the names of the secrets. Nothing returns their values.
func (a *api) secrets(x *request) error {
	s, err := a.Store.Settings(x.R.Context(), x.Tenant)
	if err != nil {
		return err
	}
	names := slices.AppendSeq([]string{}, maps.Keys(s.Secrets))
	slices.Sort(names)
	return x.json(http.StatusOK, map[string]any{"status": "success", "data": names})
}

var secretName = regexp.MustCompile(`^[a-z0-9_-]{1,64}$`)

func (x *request) secretName() (string, error) {
	name := path.Base(x.R.URL.Path)
	if !secretName.MatchString(name) {
		return "", exchange.BadRequest(fmt.Sprintf("%q is not the name of a secret: use up to 64 lower-case letters, digits, - and _", name))
	}
	return name, nil
}

// setSecret encrypts and stores a secret, whose value is the body.
func (a *api) setSecret(x *request) error {
	name, err := x.secretName()
	if err != nil {
		return err
	}
	value, err := x.body(maxSecret, "the secret")
	if err != nil {
		return err
	}
	if len(value) == 0 {
		return exchange.BadRequest("the body is empty: send the value of the secret as the body")
	}
	s, err := a.Store.Settings(x.R.Context(), x.Tenant)
	if err != nil {
		return err
	}
	if _, ok := s.Secrets[name]; !ok && len(s.Secrets) >= maxSecrets {
		return exchange.BadRequest(fmt.Sprintf("the tenant has %d secrets, which is the most: delete one first", len(s.Secrets)))
	}
	sealed, err := a.Seal(x.Tenant, name, value)
	if errors.Is(err, ErrNoKey) {
		return &exchange.Error{Code: http.StatusNotImplemented, Text: err.Error()}
	}
	if err != nil {
		return err
	}
	if s.Exists && strings.Contains(s.Config.YAML, name) {
		if s.Secrets == nil {
			s.Secrets = map[string][]byte{}
		}
		s.Secrets[name] = sealed
		if _, err := a.check(x, []byte(s.Config.YAML), s); err != nil {
			return err
		}
	}
	if err := a.Store.SetSecret(x.R.Context(), x.Tenant, name, sealed); err != nil {
		return err
	}
	a.Changed(x.Tenant)
	return x.json(http.StatusOK, map[string]any{"status": "success"})
}

func (a *api) deleteSecret(x *request) error {
	name, err := x.secretName()
	if err != nil {
		return err
	}
	s, err := a.Store.Settings(x.R.Context(), x.Tenant)
	if err != nil {
		return err
	}
	if _, ok := s.Secrets[name]; !ok {
		return exchange.NotFound(fmt.Sprintf("there is no secret %q", name))
	}
	if delete(s.Secrets, name); s.Exists {
		_, err := a.check(x, []byte(s.Config.YAML), s)
		var invalid *exchange.Error
		switch {
		case err == nil:
		case !errors.As(err, &invalid) || invalid.Code != http.StatusBadRequest:
			return err // it is not known whether the configuration needs the secret
		case strings.Contains(invalid.Text, name):
			return &exchange.Error{Code: http.StatusConflict,
				Text: fmt.Sprintf("the Alertmanager configuration uses the secret %q: change the configuration first", name)}
		}
	}
	if err := a.Store.DeleteSecret(x.R.Context(), x.Tenant, name); err != nil {
		return err
	}
	a.Changed(x.Tenant)
	return x.json(http.StatusOK, map[string]any{"status": "success"})
}
