package device

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"os"

	"decaf/api/gnmi"
)

// UserConfig is one who may call the gNMI target.
type UserConfig struct {
	Name string `yaml:"name"`
	// PasswordFile holds the password; a line end behind it is not part of it.
	PasswordFile string `yaml:"password_file"`
	// Write is whether the user may set.
	Write bool `yaml:"write"`
}

func validateUsers(list []UserConfig) error {
	seen := map[string]bool{}
	for _, u := range list {
		switch {
		case u.Name == "":
			return errors.New("users: one has no name")
		case seen[u.Name]:
			return fmt.Errorf("users: %s is there twice", u.Name)
		case u.PasswordFile == "":
			return fmt.Errorf("users: %s has no password_file: give a file that holds the password", u.Name)
		}
		seen[u.Name] = true
	}
	return nil
}

// newLogin reads the passwords; without users it returns nil.
func newLogin(list []UserConfig) (gnmi.Login, error) {
	if len(list) == 0 {
		return nil, nil
	}
	type user struct {
		digest [sha256.Size]byte
		write  bool
	}
	users := map[string]user{}
	for _, u := range list {
		b, err := os.ReadFile(u.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("password of user %s: %w", u.Name, err)
		}
		if b = bytes.TrimRight(b, "\r\n"); len(b) == 0 {
			return nil, fmt.Errorf("password of user %s: %s is empty", u.Name, u.PasswordFile)
		}
		users[u.Name] = user{sha256.Sum256(b), u.Write}
	}
	return func(name, password string) (known, write bool) {
		u, ok := users[name]
		digest := sha256.Sum256([]byte(password)) // for a stranger too: it takes as long
		right := subtle.ConstantTimeCompare(digest[:], u.digest[:]) == 1
		return ok && right, ok && right && u.write
	}, nil
}
