-- run once by the database's own entry point; both belong to the user that it made
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
