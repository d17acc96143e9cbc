module wsplugin

go 1.23
