package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

func (c *Cluster) makeBucket(ctx context.Context) error {
	body, _ := json.Marshal(map[string]string{"name": bucket})
	resp, err := c.post(ctx, "http://"+c.Process("gcs").Addr+"/storage/v1/b?project="+project, body, "")
	if err != nil {
		return fmt.Errorf("create the bucket: %w", err)
	}
	if resp.code != http.StatusOK && resp.code != http.StatusConflict {
		return fmt.Errorf("create the bucket: %d %s", resp.code, resp.body)
	}
	return nil
}

type response struct {
	code int
	body []byte
}

func (c *Cluster) post(ctx context.Context, url string, body []byte, token string) (response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return response{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return response{}, err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return response{resp.StatusCode, out}, err
}

// Admin sends an operator's command to the gateway of that name. If the name is an
// ingester's or a compactor's, the first running gateway forwards the command to that
// process; for other backends any gateway may process the command.
func (c *Cluster) Admin(ctx context.Context, name, path string, body []byte) (int, string, error) {
	gateways, path := c.operator(name, path)
	var resp response
	var err error
	for _, g := range gateways {
		if resp, err = c.post(ctx, c.Process(g).Admin+"/admin/v1"+path, body, c.admin); err == nil {
			break
		}
	}
	return resp.code, string(resp.body), err
}

// operator returns the gateways that may process a command, and its path.
func (c *Cluster) operator(name, path string) ([]string, string) {
	kind, _, _ := strings.Cut(name, "-")
	switch kind {
	case "gateway":
		return []string{name}, path
	case "ingester", "compactor":
		sep := "?"
		if strings.Contains(path, "?") {
			sep = "&"
		}
		path += sep + "instance=" + name
	}
	return []string{"gateway-1", "gateway-2"}, path
}

// AdminGet sends a GET request to the admin API; name selects the gateway as in Admin.
func (c *Cluster) AdminGet(ctx context.Context, name, path string) (string, error) {
	gateways, path := c.operator(name, path)
	var text string
	var err error
	for _, g := range gateways {
		if text, err = c.adminGet(ctx, g, "/admin/v1"+path); err == nil {
			break
		}
	}
	return text, err
}

// Page returns the operator's page of a gateway.
func (c *Cluster) Page(ctx context.Context, gateway string) (string, error) {
	return c.adminGet(ctx, gateway, "/")
}

func (c *Cluster) adminGet(ctx context.Context, name, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Process(name).Admin+path, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+c.admin)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %d %s", path, resp.StatusCode, body)
	}
	return string(body), err
}

// Verify runs pallium verify over the cluster's stores.
func (c *Cluster) Verify(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.o.Binaries.Pallium, append([]string{"verify", "-config", c.path("gateway-1.yaml")}, args...)...)
	cmd.Env = append(os.Environ(), "BIGTABLE_EMULATOR_HOST=", "STORAGE_EMULATOR_HOST=")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Pallium runs an admin command against the first gateway and returns what it
// prints.
func (c *Cluster) Pallium(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.o.Binaries.Pallium, append(args, "-admin-url", c.AdminURL)...)
	cmd.Env = append(os.Environ(), "PALLIUM_ADMIN_TOKEN_FILE="+c.o.AdminTokenFile)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("pallium %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// NewToken creates the tenant if it does not exist, and issues a key for it.
func (c *Cluster) NewToken(ctx context.Context, tenant string, scopes ...string) (string, error) {
	if _, err := c.Pallium(ctx, "tenant", "show", tenant); err != nil {
		if _, err := c.Pallium(ctx, "tenant", "create", tenant); err != nil {
			return "", err
		}
	}
	return c.Pallium(ctx, "token", "issue", "-tenant", tenant, "-scopes", strings.Join(scopes, ","),
		"-name", "cluster-"+strconv.FormatInt(time.Now().UnixNano(), 36), "-q")
}

// provision creates the tenant and its token.
func (c *Cluster) provision(ctx context.Context) error {
	var err error
	c.Token, err = c.NewToken(ctx, Tenant, "metrics:read", "metrics:write", "metrics:delete")
	return err
}
