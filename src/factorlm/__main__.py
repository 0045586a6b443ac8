from factorlm.cli import main

main()
