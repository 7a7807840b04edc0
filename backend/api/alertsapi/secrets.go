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
	"github.com/palliumhq/pallium/backend/index"
)

// secrets lists the names of the secrets. No request returns their values.
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
	if s.Secrets == nil {
		s.Secrets = map[string][]byte{}
	}
	s.Secrets[name] = sealed
	if problem, err := a.objection(x, name, s); err != nil {
		return err
	} else if problem != nil {
		return problem
	}
	if err := a.Store.SetSecret(x.R.Context(), x.Tenant, name, sealed); err != nil {
		return err
	}
	a.Changed(x.Tenant)
	return x.json(http.StatusOK, map[string]any{"status": "success"})
}

// objection returns a problem if the change of the secret `name` makes the stored configuration invalid. `s` has the changed
// secrets. A configuration that is invalid for another reason, such as another missing secret, does not prevent the change.
// objection returns an error if the configuration could not be checked.
func (a *api) objection(x *request, name string, s index.AlertmanagerSettings) (problem *exchange.Error, err error) {
	if !s.Exists {
		return nil, nil
	}
	_, err = a.check(x, []byte(s.Config.YAML), s)
	if !errors.As(err, &problem) || problem.Code != http.StatusBadRequest {
		return nil, err
	}
	if !strings.Contains(problem.Text, fmt.Sprintf("secret %q", name)) {
		return nil, nil
	}
	return problem, nil
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
	delete(s.Secrets, name)
	if problem, err := a.objection(x, name, s); err != nil {
		return err
	} else if problem != nil {
		return &exchange.Error{Code: http.StatusConflict,
			Text: fmt.Sprintf("the Alertmanager configuration uses the secret %q: change the configuration first", name)}
	}
	if err := a.Store.DeleteSecret(x.R.Context(), x.Tenant, name); err != nil {
		return err
	}
	a.Changed(x.Tenant)
	return x.json(http.StatusOK, map[string]any{"status": "success"})
}
