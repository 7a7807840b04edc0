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
)

// secrets lists the names of the secrets. Nothing returns their values.
func (a *api) secrets(x *exchange) error {
	s, err := a.Store.Settings(x.r.Context(), x.tenant)
	if err != nil {
		return err
	}
	names := slices.AppendSeq([]string{}, maps.Keys(s.Secrets))
	slices.Sort(names)
	return x.json(http.StatusOK, map[string]any{"status": "success", "data": names})
}

var secretName = regexp.MustCompile(`^[a-z0-9_-]{1,64}$`)

func (x *exchange) secretName() (string, error) {
	name := path.Base(x.r.URL.Path)
	if !secretName.MatchString(name) {
		return "", statusError{http.StatusBadRequest,
			fmt.Sprintf("%q is not the name of a secret: use up to 64 lower-case letters, digits, - and _", name)}
	}
	return name, nil
}

// setSecret encrypts and stores a secret, whose value is the body.
func (a *api) setSecret(x *exchange) error {
	name, err := x.secretName()
	if err != nil {
		return err
	}
	value, err := x.body(maxSecret, "the secret")
	if err != nil {
		return err
	}
	if len(value) == 0 {
		return statusError{http.StatusBadRequest, "the body is empty: send the value of the secret as the body"}
	}
	s, err := a.Store.Settings(x.r.Context(), x.tenant)
	if err != nil {
		return err
	}
	if _, ok := s.Secrets[name]; !ok && len(s.Secrets) >= maxSecrets {
		return statusError{http.StatusBadRequest, fmt.Sprintf("the tenant has %d secrets, which is the most: delete one first", len(s.Secrets))}
	}
	sealed, err := a.Seal(x.tenant, name, value)
	if errors.Is(err, ErrNoKey) {
		return statusError{http.StatusNotImplemented, err.Error()}
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
	if err := a.Store.SetSecret(x.r.Context(), x.tenant, name, sealed); err != nil {
		return err
	}
	a.Changed(x.tenant)
	return x.json(http.StatusOK, map[string]any{"status": "success"})
}

func (a *api) deleteSecret(x *exchange) error {
	name, err := x.secretName()
	if err != nil {
		return err
	}
	s, err := a.Store.Settings(x.r.Context(), x.tenant)
	if err != nil {
		return err
	}
	if _, ok := s.Secrets[name]; !ok {
		return statusError{http.StatusNotFound, fmt.Sprintf("there is no secret %q", name)}
	}
	if delete(s.Secrets, name); s.Exists {
		var status statusError
		if _, err := a.check(x, []byte(s.Config.YAML), s); errors.As(err, &status) && status.code == http.StatusBadRequest &&
			strings.Contains(status.text, name) {
			return statusError{http.StatusConflict,
				fmt.Sprintf("the Alertmanager configuration uses the secret %q: change the configuration first", name)}
		} else if err != nil && !errors.As(err, &status) {
			return err
		}
	}
	if err := a.Store.DeleteSecret(x.r.Context(), x.tenant, name); err != nil {
		return err
	}
	a.Changed(x.tenant)
	return x.json(http.StatusOK, map[string]any{"status": "success"})
}
