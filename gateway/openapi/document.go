package openapi

// The parts of a document that are used, with the names of the specification.
type (
	document struct {
		OpenAPI    string                           `yaml:"openapi"`
		Info       info                             `yaml:"info"`
		Servers    []server                         `yaml:"servers"`
		Paths      map[string]map[string]*operation `yaml:"paths"` // by path and method in lower case
		Components map[string]any                   `yaml:"components"`
	}
	info struct {
		Title       string `yaml:"title"`
		Version     string `yaml:"version"`
		Description string `yaml:"description"`
	}
	server struct {
		URL string `yaml:"url"`
	}
	operation struct {
		Summary     string                `yaml:"summary,omitempty"`
		Description string                `yaml:"description,omitempty"`
		ID          string                `yaml:"operationId"`
		Security    []map[string][]string `yaml:"security"` // empty: no credential
		Parameters  []parameter           `yaml:"parameters,omitempty"`
		Body        *body                 `yaml:"requestBody,omitempty"`
		Responses   map[string]response   `yaml:"responses"` // by status
	}
	parameter struct {
		Ref         string  `yaml:"$ref,omitempty"`
		Name        string  `yaml:"name,omitempty"`
		In          string  `yaml:"in,omitempty"`
		Description string  `yaml:"description,omitempty"`
		Required    bool    `yaml:"required,omitempty"`
		Schema      *schema `yaml:"schema,omitempty"`
	}
	body struct {
		Required bool                 `yaml:"required,omitempty"`
		Content  map[string]mediaType `yaml:"content"` // by media type
	}
	response struct {
		Ref         string               `yaml:"$ref,omitempty"`
		Description string               `yaml:"description,omitempty"`
		Content     map[string]mediaType `yaml:"content,omitempty"` // by media type
	}
	mediaType struct {
		Schema *schema `yaml:"schema"`
	}
	schema struct {
		Ref         string             `yaml:"$ref,omitempty"`
		Type        string             `yaml:"type,omitempty"`
		Format      string             `yaml:"format,omitempty"`
		Description string             `yaml:"description,omitempty"`
		Enum        []string           `yaml:"enum,omitempty"`
		Items       *schema            `yaml:"items,omitempty"`
		Required    []string           `yaml:"required,omitempty"`
		Properties  map[string]*schema `yaml:"properties,omitempty"`
	}
)
