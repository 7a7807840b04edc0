package integrations

import (
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"strings"

	"github.com/prometheus/alertmanager/config"
	amcommoncfg "github.com/prometheus/alertmanager/config/common"
	commoncfg "github.com/prometheus/common/config"
)

// inspect returns the secrets of an integration's configuration. It returns an error if the configuration would use something
// that belongs to the operator: a file, a secret of a secret manager, a proxy, or the credentials of the process.
func inspect(conf any) (secrets, error) {
	i := inspector{found: secrets{}}
	i.walk(reflect.ValueOf(conf), "")
	if c, ok := conf.(*config.SNSConfig); ok && (c.Sigv4.AccessKey == "" || c.Sigv4.SecretKey == "") {
		i.errs = append(i.errs, errors.New(
			"sigv4.access_key and sigv4.secret_key are required: the credentials of the server are not used for notifications of tenants"))
	}
	return i.found, errors.Join(i.errs...)
}

type inspector struct {
	found secrets
	errs  []error
}

// forbidden reports whether a field of a configuration would use something that belongs to the operator.
func forbidden(field string) bool {
	for _, suffix := range []string{"File", "Files", "Ref"} {
		if strings.HasSuffix(field, suffix) {
			return true
		}
	}
	switch field {
	case "ProxyURL", "NoProxy", "ProxyFromEnvironment", "ProxyConnectHeader", // a proxy connects without the check of egress
		"Profile", "UseAWSHTTPClient": // the operator's files, and a client without the check of egress
		return true
	}
	return false
}

// walk visits all exported fields. Configurations are finite trees: they were decoded from YAML.
func (i *inspector) walk(v reflect.Value, path string) {
	if !v.IsValid() || i.secret(v) {
		return
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		i.walk(v.Elem(), path)
	case reflect.Slice, reflect.Array:
		for n := range v.Len() {
			i.walk(v.Index(n), fmt.Sprintf("%s[%d]", path, n))
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			i.walk(v.MapIndex(key), fmt.Sprintf("%s[%v]", path, key))
		}
	case reflect.Struct:
		for n := range v.NumField() {
			f := v.Type().Field(n)
			if !f.IsExported() {
				continue
			}
			if forbidden(f.Name) && !v.Field(n).IsZero() {
				i.errs = append(i.errs, fmt.Errorf("field %s.%s is not allowed: it names a file, a proxy or a secret of the server",
					strings.TrimPrefix(path, "."), f.Name))
				continue
			}
			i.walk(v.Field(n), path+"."+f.Name)
		}
	}
}

// secret records v if it is a secret, and reports whether it is one.
func (i *inspector) secret(v reflect.Value) bool {
	if !v.CanInterface() {
		return false
	}
	switch s := v.Interface().(type) {
	case commoncfg.Secret:
		i.found.add(string(s))
	case amcommoncfg.SecretTemplateURL:
		i.found.add(string(s))
		if u, err := url.Parse(string(s)); err == nil {
			i.url(u)
		}
	case amcommoncfg.SecretURL:
		i.url(s.URL)
	case amcommoncfg.URL: // only the userinfo and the query may contain a secret
	case url.URL:
	default:
		return false
	}
	return true
}

// url records the URL, and the part of it that follows the host, as secrets.
func (i *inspector) url(u *url.URL) {
	if u == nil {
		return
	}
	i.found.add(u.String())
	if path := strings.Trim(u.RequestURI(), "/"); len(path) >= 8 {
		i.found.add(path)
	}
}
