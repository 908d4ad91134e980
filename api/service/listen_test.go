package service

import "testing"

func TestValidListen(t *testing.T) {
	for address, valid := range map[string]bool{
		"127.0.0.1:8080": true, ":0": true, "[::1]:9339": true, "localhost:65535": true,
		"127.0.0.1": false, "127.0.0.1:99999": false, "127.0.0.1:http": false, "::1:9339": false, "127.0.0.1:": false, "": false,
	} {
		if err := ValidListen(address); (err == nil) != valid {
			t.Errorf("%q: %v", address, err)
		}
	}
}
