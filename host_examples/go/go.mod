module wsplugin

go 1.24
