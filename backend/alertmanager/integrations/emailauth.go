package integrations

import (
	"errors"
	"fmt"
	"net/smtp"
	"strings"
)

// login authenticates with the first mechanism of the server for which the configuration has a secret. As in Alertmanager,
// it does nothing if there is no user name, or if the server does not offer authentication.
func (n *emailNotifier) login(c *smtp.Client) error {
	ok, offered := c.Extension("AUTH")
	if !ok || n.conf.AuthUsername == "" {
		return nil
	}
	auth, err := n.mechanism(offered)
	if err != nil {
		return fmt.Errorf("choose an authentication mechanism: %w", err)
	}
	if err := c.Auth(auth); err != nil {
		return fmt.Errorf("authenticate at the mail server: %w", err)
	}
	return nil
}

func (n *emailNotifier) mechanism(offered string) (smtp.Auth, error) {
	user, password := n.conf.AuthUsername, string(n.conf.AuthPassword)
	var errs []error
	for name := range strings.FieldsSeq(offered) {
		switch {
		case name == "CRAM-MD5" && n.conf.AuthSecret != "":
			return smtp.CRAMMD5Auth(user, string(n.conf.AuthSecret)), nil
		case name == "PLAIN" && password != "":
			return smtp.PlainAuth(n.conf.AuthIdentity, user, password, n.conf.Smarthost.Host), nil
		case name == "LOGIN" && password != "":
			return loginAuth{user, password}, nil
		case name == "CRAM-MD5":
			errs = append(errs, errors.New("auth_secret is missing for CRAM-MD5"))
		case name == "PLAIN" || name == "LOGIN":
			errs = append(errs, fmt.Errorf("auth_password is missing for %s", name))
		default:
			errs = append(errs, fmt.Errorf("mechanism %q is not supported", name))
		}
	}
	if len(errs) == 0 {
		errs = append(errs, errors.New("the mail server offers none"))
	}
	return nil, errors.Join(errs...)
}

// loginAuth is the mechanism LOGIN, which has no RFC.
type loginAuth struct{ user, password string }

// Start returns the name of the mechanism.
func (a loginAuth) Start(*smtp.ServerInfo) (string, []byte, error) { return "LOGIN", nil, nil }

// Next answers the server's questions for the user name and the password.
func (a loginAuth) Next(question []byte, more bool) ([]byte, error) {
	if !more {
		return nil, nil
	}
	switch strings.ToLower(string(question)) {
	case "username:":
		return []byte(a.user), nil
	case "password:":
		return []byte(a.password), nil
	}
	return nil, errors.New("unexpected authentication challenge of the mail server")
}
